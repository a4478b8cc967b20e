"""The same model behind other servers, at their documented best settings, a worker a core."""
