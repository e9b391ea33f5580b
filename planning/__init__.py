"""Planning: objectives and spot-weight optimisation on the engine's influence matrix. No DICOM or web code."""
