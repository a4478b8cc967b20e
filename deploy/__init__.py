"""How the system is deployed: topics as code, and its dependencies without containers for one machine."""
