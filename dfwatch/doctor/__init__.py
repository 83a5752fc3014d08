"""``dfwatch doctor``: is this machine fit for the service, and what to do where it is not."""

from dfwatch.doctor.examination import examine
from dfwatch.doctor.finding import Finding, Health

__all__ = ["Finding", "Health", "examine"]
