"""The laboratory: whole topologies on one machine, in network namespaces.

A topology file (``topologies/*.toml``) names networks, hosts and routers; ``build`` turns it into namespaces,
bridges, routes and NATs and takes them away again; ``deployment`` runs a site and its nodes in them; ``demo``
measures every pair.  Needs root.
"""
