"""Recipes: functions that join stages into a graph of steps, one method a file."""
