"""recipes/report"""
