# shellcheck shell=bash
# Sourced by scripts in a mount namespace of their own: goes to a new XFS on a loop device, which ends with the script.

scratch=$(mktemp -d)
trap 'cd /; umount "$scratch/mnt" 2>/dev/null || :; rm -rf "$scratch"' EXIT
mkdir "$scratch/mnt"
truncate -s 512M "$scratch/image"
mkfs.xfs -q "$scratch/image"
mount -o loop "$scratch/image" "$scratch/mnt"
cd "$scratch/mnt"
