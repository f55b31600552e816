"""Looking at data sets before learning from them: counts, duplicates, outliers, offsets between two sources."""
