"""Tracking by the project's own code: DeepSORT, and events of tracks. Pure; time comes with each call as PTS."""
