"""What a preset needs before anybody starts it: parameters, bytes per chip, operations, hours, storage.

Pure functions of the settings; networks are built on the meta device, nothing is allocated and nobody is asked.
"""
