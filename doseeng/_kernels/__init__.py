"""All voxel loops. Plain arrays in and out, float32, no dataclasses, no I/O, no errors beyond bad shapes."""
