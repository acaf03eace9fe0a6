"""Estimate of the resources that a preset needs: parameters, bytes per chip, operations, hours, storage.

Pure functions of the settings; networks are built on the meta device, no memory is allocated and no service is called.
"""
