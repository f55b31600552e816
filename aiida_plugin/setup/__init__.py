"""What ``aiida-cgcnn setup`` makes and ``aiida-cgcnn setup --check`` looks at."""
