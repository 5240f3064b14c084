"""From RTP payloads to sound: codecs behind one plugin interface, playout in time, mixing."""
