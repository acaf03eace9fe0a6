"""The engines that components run on: Beam, Ray, devices."""
