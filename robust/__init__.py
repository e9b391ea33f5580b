"""Robustness: scenario sets, scenario statistics, clinical goals and the verdict. No DICOM, web or report code."""
