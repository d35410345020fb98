"""Vireo: trains, ships and serves two-stage video recommenders over gRPC.

In a checkout this package links to the folders at its top, and to the stubs that
`python -m protos.generate` writes; a wheel has them in the links' place. So a module has one name
everywhere: `vireo.server.home` is `server/home.py`.
"""
