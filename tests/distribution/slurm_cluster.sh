#!/bin/bash
# Slurm on two nodes, n2 and n10, each in a network of its own, for as long as a command runs:
#   unshare -n -m slurm_cluster.sh FOLDER COMMAND WORD ...
# (By letters n10 comes before n2; Slurm's own order is n2, n10.)
set -e
folder=$1
shift

ip link set lo up
ip link add near type veth peer name far
ip addr add 10.77.0.2/24 dev near
ip link set near up
unshare -n sleep infinity &
other=$!
started=("$other")
finish() {
  for file in "$folder"/*.pid; do started+=("$(cat "$file")"); done
  kill "${started[@]}" 2>/dev/null
  wait "$other" 2>/dev/null
  for pid in "${started[@]}"; do
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null
  done
}
trap 'code=$?; set +e; finish; exit $code' EXIT
sleep 0.3
ip link set far netns "$other"
inside=(nsenter -t "$other" -n)
"${inside[@]}" ip link set lo up
"${inside[@]}" ip addr add 10.77.0.10/24 dev far
"${inside[@]}" ip link set far up

mkdir -p "$folder"/state "$folder"/munge
{ cat /etc/hosts; echo "10.77.0.2 n2"; echo "10.77.0.10 n10"; } >"$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts
(umask 077 && head -c 128 /dev/urandom >"$folder/munge/key")
munged --force --num-threads=2 --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
  --seed-file="$folder/munge/seed" --log-file="$folder/munge/log" --pid-file="$folder/munged.pid"

export SLURM_CONF="$folder/slurm.conf"
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(10.77.0.2)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=n2 NodeAddr=10.77.0.2 NodeHostname=$(hostname -s) Port=16820 CPUs=2 RealMemory=4000
NodeName=n10 NodeAddr=10.77.0.10 NodeHostname=$(hostname -s) Port=16821 CPUs=2 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES
CONF
slurmctld -c
slurmd -N n2
"${inside[@]}" slurmd -N n10
for _ in $(seq 60); do [ "$(sinfo -h -o %t)" = idle ] && break; sleep 0.5; done
"$@"
