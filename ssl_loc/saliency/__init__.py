"""Saliency maps: stored ones with their manifest (estimators register here too)."""
