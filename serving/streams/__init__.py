"""The stages of a stream: ingest, worker, mixer. `run` puts them into one process; each is a loop on one page."""
