"""Everything that runs: configuration, data, training, tracking, stages, and the command line over them."""
