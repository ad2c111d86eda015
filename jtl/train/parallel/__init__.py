"""Where a run's arrays lie: meshes, pmap, processes, and checks that these agree."""
