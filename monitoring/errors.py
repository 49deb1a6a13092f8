"""Errors of the monitoring package.

MonitoringError           anything below
├── BaselineError         a stored baseline is missing, damaged, or belongs to another model
├── ProbeError            the probe texts are missing or empty
└── MeasurementError      stored measurements cannot be read
"""


class MonitoringError(Exception):
    """Base of all errors raised on purpose by `monitoring`."""


class BaselineError(MonitoringError):
    """Raised when a stored baseline cannot be used with the model at hand."""


class ProbeError(MonitoringError):
    """Raised when probe texts are missing or empty."""


class MeasurementError(MonitoringError):
    """Raised when stored measurements do not have the expected fields."""
