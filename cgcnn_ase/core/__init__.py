"""What every room stands on: elements, targets, settings, errors, parallel workers, the cache folder."""
