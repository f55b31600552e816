"""Set-up: what ``aiida-cgcnn setup`` makes and ``aiida-cgcnn setup --check`` looks at."""
