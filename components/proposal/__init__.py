"""A preset proposed for a user's images: what is there, how fast this machine is, and settings that fit both."""
