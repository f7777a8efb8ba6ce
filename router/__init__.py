"""dicom-router: a declarative DICOM routing, forwarding and prefetch engine."""

__version__ = "0.1.0"
