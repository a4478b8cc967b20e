"""The same model behind other servers, at their documented best settings on two cores."""
