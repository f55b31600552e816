#!/bin/bash
# scripts/test_services.sh VENV [PYTEST_ARGS...]: the tests that need servers. Debian's packages are installed where they
# are missing; the tests start servers of their own, on loopback and in temporary folders, and end them. Debian enables
# what it installs for the next boot: `systemctl disable ssh postgresql rabbitmq-server munge` where that is not wanted.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/apt.sh"
venv=$1
shift

missing=()
ls -d /usr/lib/postgresql/*/bin > /dev/null 2>&1 || missing+=(postgresql)
for pair in rabbitmq-server:rabbitmq-server slurmctld:slurm-wlm munged:munge sshd:openssh-server; do
    PATH=$PATH:/usr/sbin command -v "${pair%%:*}" > /dev/null || missing+=("${pair##*:}")
done
if [ ${#missing[@]} -gt 0 ]; then (
    policy=/usr/sbin/policy-rc.d # while it says so, no service starts by being installed: no sshd for all the world
    if [ ! -e $policy ]; then
        trap 'as_root rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy > /dev/null
        as_root chmod +x $policy
    fi
    apt_install "${missing[@]}"
); fi

OMP_NUM_THREADS=1 "$venv/bin/python" -m pytest -m services tests/aiida_services "$@"
