"""The REST gateway: encoded bytes in, the model's JSON out. No pixel is decoded here."""
