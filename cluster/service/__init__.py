"""Configuration of the service, and everything started together: `doseeng serve`."""
