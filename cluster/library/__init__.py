"""The DICOM objects of a site: received, indexed by UID, put together into cases, images and courses."""
