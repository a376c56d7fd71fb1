"""Ratings of models from battles: Bradley-Terry, Elo, intervals, win rates."""
