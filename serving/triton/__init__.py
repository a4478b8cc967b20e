"""The embedded Triton: started, watched, reloaded and stopped by us. Wiring level, beside `serving.backend`."""
