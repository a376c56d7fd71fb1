"""How far those who judge the same items agree: coefficients, and the quality of annotators."""
