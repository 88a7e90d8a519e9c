"""What the commands do, without the command line: build, infer, inspect, doctor, refit."""
