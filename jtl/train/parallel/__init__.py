"""Placement of a run's arrays: meshes, pmap, processes, and checks that processes agree."""
