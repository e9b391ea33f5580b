"""Voxel loops of registration: plain arrays in, plain arrays out."""
