"""Network architectures as factories: `models.architectures.<file>:<function>` with keyword arguments."""
