"""What delay does to a robot's motion: brokers and merges compared in the ALOHA simulator."""
