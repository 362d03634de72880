# What the batch scripts of this folder share. They set run_dir, max_restarts, and checkpoints where it is not in run_dir;
# then they call: begin, follow COMMAND…, conclude.

restarts=${SLURM_RESTART_COUNT:-0}
# For the last task of an array SLURM_JOB_ID is the whole array's.
job=$SLURM_JOB_ID
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
fi

say() {
    echo "$(date +%FT%T) job $job: $*"
}

checkpoints=${checkpoints:-$run_dir/checkpoints}

# Of an object store, which a shell does not read, nothing is told.
last_checkpoint() {
    cat "$checkpoints/latest" 2>/dev/null || true
}

# Where the ranks meet: MASTER_ADDR, MASTER_PORT. A restart takes another port than the start that it may still overlap.
begin() {
    local head
    read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    MASTER_ADDR=$(scontrol --oneliner show node "$head" | sed 's/.* NodeAddr=\([^ ]*\).*/\1/')
    MASTER_PORT=$((12000 + (SLURM_JOB_ID + 7919 * restarts) % 20000))
    export MASTER_ADDR MASTER_PORT restarts
    pick_nodes
    # When Slurm ends the job, in seconds since 1970; the run begins nothing that it could not end before.
    local until
    until=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e 2>/dev/null || true)
    if SLURM_JOB_END_TIME=$(date --date="$until" +%s 2>/dev/null) && [[ -n $until ]]; then
        export SLURM_JOB_END_TIME
    else
        unset SLURM_JOB_END_TIME until
    fi
    # srun does not take it over from sbatch; without it a task may be bound to one core.
    export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
    if ((restarts > max_restarts)); then
        say "given up after $max_restarts restarts; submit it again to continue from ${run_dir}"
        exit 1
    fi
    say "start $((restarts + 1)) on $nodes of $SLURM_JOB_NODELIST until ${until:-it is done}, meeting at $MASTER_ADDR:$MASTER_PORT"
    checkpoint_before=$(last_checkpoint)
}

# The most nodes of those that the job got on which the run can train.
pick_nodes() {
    local count
    nodes=$SLURM_JOB_NUM_NODES
    for count in ${node_counts[@]+"${node_counts[@]}"}; do
        if ((count <= SLURM_JOB_NUM_NODES)); then
            nodes=$count
            break
        fi
    done
    export nodes
}

# Slurm may have started the job again on other nodes while this one was cut off: it is then no longer ours.
started_again() {
    local now
    now=$(scontrol --oneliner show job "$job" 2>/dev/null | sed -n 's/.* Restarts=\([0-9]*\) .*/\1/p')
    [[ -n $now && $now != "$restarts" ]]
}

# Runs a job step to its end and leaves its exit code in `code`. USR1 to this script goes on to the ranks. CONT must not
# be trapped: Slurm sends it beside USR1, and bash then loses one of them.
follow() {
    local step='' status signalled=0
    # Before the step begins: USR1 would end a script that does not trap it.
    trap 'signalled=1; [[ -z $step ]] || kill -USR1 "$step" 2>/dev/null || true' USR1
    "$@" &
    step=$!
    if ((signalled)); then
        kill -USR1 "$step" 2>/dev/null || true
    fi
    code=127
    signalled=1
    while ((signalled)); do
        signalled=0
        # `wait` ends early when a signal comes; 127 says that the step was waited for before.
        wait "$step" && status=0 || status=$?
        ((status == 127)) || code=$status
    done
    trap '' USR1
}

# Ends the job, or has Slurm start it again in the same run directory. TERM is not caught: scancel sends it, and a job
# that requeued itself on it could not be cancelled.
conclude() {
    if started_again; then
        say "started again elsewhere meanwhile: this start ends"
        exit 1
    fi
    case $code in
        0)
            say "finished"
            exit 0
            ;;
        2)
            say "refused, see above; starting it again would not help"
            exit 2
            ;;
        75) say "stopped by a signal, or before its time limit, after a complete checkpoint" ;;
        138) say "ended by a second signal, before its checkpoint was complete" ;;
        *)
            say "crashed with exit code $code"
            if [[ $checkpoints != *://* && $(last_checkpoint) == "$checkpoint_before" ]]; then
                say "not started again, as it made no checkpoint since it started"
                exit "$code"
            fi
            ;;
    esac
    if ((restarts >= max_restarts)); then
        say "given up after $max_restarts restarts; submit it again to continue from ${run_dir}"
        exit 1
    fi
    say "to be started again from its last checkpoint, $(last_checkpoint)"
    scontrol requeue "$job" || say "Slurm does not requeue it; submit it again to continue from ${run_dir}"
    exit 75
}
