"""Search spaces: variables, shares that add up to one, cathodes by whole atoms."""
