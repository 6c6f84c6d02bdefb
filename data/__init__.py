"""Pictures, videos and data sets: reading, writing, rendering and scoring them; and what all command lines share."""
