"""From packets to streams and calls. Imports nothing of rokuon but itself; no clock, no sockets outside the sources."""
