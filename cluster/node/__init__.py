"""The DICOM node: receives objects, answers queries, fetches from archives, sends results."""
