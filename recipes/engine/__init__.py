"""recipes/engine"""
