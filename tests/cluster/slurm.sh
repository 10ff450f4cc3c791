#!/usr/bin/env bash
# A SLURM of one machine with two processors, for the tests: munged, slurmctld and slurmd below one folder.
#
#     slurm.sh start FOLDER    then: export SLURM_CONF=FOLDER/slurm.conf
#     slurm.sh stop FOLDER
#
# Jobs of the partition `urgent` make room for themselves by preempting those of `normal`, at once, and of `patient`, after
# five minutes; preempted jobs are requeued. All have five minutes to save, and credentials last for half a minute (which
# a requeued job waits for), so that nothing depends on how busy the machine is.
set -euo pipefail

command=${1:?start or stop}
mkdir -p "${2:?a folder}"
folder=$(cd "$2" && pwd)
export SLURM_CONF=$folder/slurm.conf

await() { # until a command succeeds
    for _ in $(seq 600); do
        "$@" > /dev/null 2>&1 && return
        sleep 0.1
    done
    echo "in vain: $*" >&2
    cat "$folder"/*.log >&2 || true
    exit 1
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

idle() { [ "$(sinfo --noheader --partition normal --format %t)" = idle ]; }

ended() { ! kill -0 "$1"; }

if [ "$command" = stop ]; then
    for name in slurmd slurmctld munged; do
        if [ -f "$folder/$name.pid" ]; then
            pid=$(cat "$folder/$name.pid")
            kill "$pid" 2> /dev/null || true
            await ended "$pid"
        fi
    done
    exit
fi

mkdir -p "$folder/state" "$folder/spool"
chmod 755 "$folder"
if [ ! -f "$folder/munge.key" ]; then
    head -c 1024 /dev/urandom > "$folder/munge.key"
    chmod 400 "$folder/munge.key"
fi
host=$(hostname -s)
cat > "$SLURM_CONF" <<END
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=30
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=300
MinJobAge=3600
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=1024 State=UNKNOWN
PartitionName=normal Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=patient Nodes=$host MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=300
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
END
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
slurmctld
slurmd
await idle
