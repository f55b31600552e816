"""Reports of data sets before training: counts, duplicates, outliers, offsets between two sources; second opinions."""
