"""The TuSimple layout, scripts that make, prepare and score data in it, and what all command lines share."""
