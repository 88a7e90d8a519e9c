"""Int8 engines: calibration on photos, quantisation, and its checks."""
