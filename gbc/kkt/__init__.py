"""The KKT conditions of a classifier: Λ, the multipliers, the losses of stationarity and duality, the row space."""
