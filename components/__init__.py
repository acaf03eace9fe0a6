"""One file per step of the flow: settings and input artifacts in, one artifact out."""
