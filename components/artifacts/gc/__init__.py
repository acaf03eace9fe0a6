"""What lies in an artifact root: looking through it, pinning, and removing what nobody needs any more."""
