"""The main job at small size: ``plan`` says which commands, ``run`` runs them, ``table`` reads the numbers."""
