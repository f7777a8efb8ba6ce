"""The wire: the only place of the router that knows sockets, PDUs and pynetdicom."""
