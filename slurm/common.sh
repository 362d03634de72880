# What the batch scripts of this folder share. They source it before anything that takes time, set run_dir, max_restarts,
# checkpoints where it is not in run_dir, and anew=1 where nothing is kept until the end; then they call: begin, follow
# COMMAND…, conclude.

# What Slurm tells of a job, a line for each that has the number: "JobId=4 JobName=… Restarts=0 …"; nothing where it does not
# answer. USR1 to all that the job runs does not end this. date(1) cannot read every form of times that a user may like.
job_facts() {
    (trap '' USR1 && SLURM_TIME_FORMAT=standard scontrol --oneliner show job "$1" 2>/dev/null) || true
}

# Which job this is, and how often it was started again. sbatch hands on what a job that submits this one has of its own, and
# Slurm sets SLURM_ARRAY_… only of arrays and SLURM_RESTART_COUNT only of what was started again: else they are of that other job.
# For the last task of an array SLURM_JOB_ID is the whole array's, and the other tasks have lines too.
identify() {
    local line
    line=$(job_facts "$SLURM_JOB_ID" | grep "^JobId=$SLURM_JOB_ID " || true)
    [[ $line != *" Restarts=0 BatchFlag="* ]] || unset SLURM_RESTART_COUNT
    [[ -z $line || $line =~ ^JobId=[0-9]+\ ArrayJobId= ]] || unset "${!SLURM_ARRAY_@}"
    restarts=${SLURM_RESTART_COUNT:-0} job=$SLURM_JOB_ID
    [[ -z ${SLURM_ARRAY_TASK_ID:-} ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
}
identify

# What a job that was submitted with --export gives its steps of the environment: they need what is exported here.
unset SLURM_EXPORT_ENV SRUN_EXPORT_ENV

# Of a job that submits this one srun would take these over, and ends where they do not fit what this one asked for; a step that
# asks for no memory has all that its job has. Only what is submitted from within a step has the number of one here.
unset SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE
[[ -z ${SLURM_STEP_ID:-} ]] || unset "${!SLURM_CPU_BIND@}"

say() {
    echo "$(date +%FT%T) job $job: $*"
}

# USR1 is for the ranks. Until they are there it must not end the script, nor what it runs end the job: of `scancel --full`
# the commands of the site's set-up get it too, and `set -e` ends a script whose command has failed.
signalled=${signalled:-0} early=
trap 'signalled=1' USR1
trap end_early EXIT

end_early() {
    local status=$?
    trap - EXIT
    if ((status != 0 && signalled)); then
        stop_early
        conclude
    fi
}

stop_early() {
    say "signalled before the ranks were started"
    code=75 early=1
    : "${checkpoints:=$run_dir/checkpoints}"
    progress_before=$(progress)
}

# Of an object store, which a shell does not read, nothing is told.
last_checkpoint() {
    cat "$checkpoints/latest" 2>/dev/null || true
}

# What tells that a start was not in vain: the newest checkpoint, of an object store the last step that was recorded.
progress() {
    if [[ $checkpoints == *://* ]]; then
        tail -n 1 "$run_dir/metrics.jsonl" 2>/dev/null | sed -n 's/.*"step": *\([0-9]*\).*/\1/p' || true
    else
        last_checkpoint
    fi
}

# What one may do where nobody starts it again.
by_hand() {
    ((${anew:-0})) && echo "submit it again to begin anew" || echo "submit it again to continue from $run_dir"
}

# Starts in a row that may end without progress: some are stopped before they could make any.
max_idle_starts=3

# Counts this start, and tells whether there were too many.
is_idle() {
    local file=$run_dir/slurm/idle_starts idle=0
    if [[ $(progress) == "$progress_before" ]]; then
        ((restarts == 0)) || idle=$(grep -xE '[0-9]{1,3}' "$file" 2>/dev/null | head -n 1 || true)
        idle=$((${idle:-0} + 1))
    fi
    mkdir -p "$run_dir/slurm" && echo "$idle" >"$file" || true
    ((idle >= max_idle_starts))
}

# Where the ranks meet: MASTER_ADDR, MASTER_PORT. A restart takes another port than the start that it may still overlap.
begin() {
    local head
    : "${checkpoints:=$run_dir/checkpoints}"
    read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    MASTER_ADDR=$(scontrol --oneliner show node "$head" | sed 's/.* NodeAddr=\([^ ]*\).*/\1/')
    MASTER_PORT=$((12000 + (SLURM_JOB_ID + 7919 * restarts) % 20000))
    export MASTER_ADDR MASTER_PORT restarts
    pick_nodes
    # When Slurm ends the job, in seconds since 1970; the run begins nothing that it could not end before.
    local until
    until=$(job_facts "$job" | sed -n 's/.* EndTime=\([^ ]*\) Deadline=.*/\1/p')
    if SLURM_JOB_END_TIME=$(date --date="$until" +%s 2>/dev/null) && [[ -n $until ]]; then
        export SLURM_JOB_END_TIME
    else
        unset SLURM_JOB_END_TIME until
    fi
    # srun does not take it over from sbatch; without it a task may be bound to one core.
    export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
    if ((restarts > max_restarts)); then
        say "given up after $max_restarts restarts; $(by_hand)"
        exit 1
    fi
    say "start $((restarts + 1)) on $nodes of $SLURM_JOB_NODELIST until ${until:-it is done}, meeting at $MASTER_ADDR:$MASTER_PORT"
    progress_before=$(progress)
    if ((${exclude_slow:-0} && restarts == 0)); then
        mkdir -p "$run_dir/slurm" && excluded >"$run_dir/slurm/exclude_asked" || true
    fi
}

# Nodes that the job is not to get.
excluded() {
    job_facts "$job" | sed -n 's/.* ExcNodeList=\([^ ]*\).*/\1/p' | grep -vF '(null)' || true
}

# So many nodes that the run has named slow or faulty are left out, the last of them.
most_excluded=4

# Asks for other nodes than these, and those that the user left out. Slurm takes that of a job that waits: once it is queued
# again, and has sent TERM to this script.
exclude_slow_nodes() {
    local tries
    for tries in {1..20}; do
        if scontrol update jobid="$job" excnodelist="$1" 2>/dev/null; then
            say "asks for other nodes than $1"
            return
        fi
        sleep 0.2
    done
    say "Slurm does not leave out $1"
}

# These nodes, with commas between: so many of those that the run named.
slow_nodes() {
    {
        cat "$run_dir/slurm/exclude_asked"
        tac "$run_dir/slurm/slow_nodes" | grep -xE '[A-Za-z0-9._-]+' | awk '!seen[$0]++' | head -n "$1"
    } 2>/dev/null | paste -sd, - || true
}

# Leaves in `slow` which of these nodes to ask for others than. A job without enough others would wait for good: then it is
# fewer, those named last, or none.
pick_slow_nodes() {
    local count told tried=
    for ((count = ${exclude_slow:-0} ? most_excluded : 0; count > 0; count--)); do
        slow=$(slow_nodes "$count")
        [[ $slow != "$tried" ]] || continue
        tried=$slow
        told=$(trap '' USR1 && sbatch --test-only --exclude="$slow" "$0" 2>&1) || true
        [[ $told == *"node configuration is not available"* ]] || return 0
    done
    [[ -z $tried ]] || say "Slurm has not enough other nodes than $tried: it is asked for no others"
    slow=
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
    now=$(job_facts "$job" | sed -n 's/.* Restarts=\([0-9]*\) BatchFlag=.*/\1/p')
    [[ -n $now && $now != "$restarts" ]]
}

# What a task of a step runs after its own preparations: the command in its arguments. srun tells the highest exit code of its
# tasks, so they end with 75 where they are to be started again, 76 for 138, 77 for a refusal, 78 for 74, more for a crash.
# TERM, which Slurm sends to every process of a step, leaves the command time to save.
# shellcheck disable=SC2016
ranked='
    trap : TERM INT USR2
    "$@" && exit 0 || code=$?
    case $code in
        75) exit 75 ;;
        138) exit 76 ;;
        2) exit 77 ;;
        74) exit 78 ;;
    esac
    if ((code <= 62)); then exit $((192 + code)); fi
    if ((code <= 78)); then exit 255; fi
    exit "$code"
'

# The code that the worst task's command ended with; 127 where Slurm or the container found nothing to run, told as a bare 2.
unranked() {
    case $1 in
        76) echo 138 ;;
        77) echo 2 ;;
        78) echo 74 ;;
        2) echo 127 ;;
        19[3-9] | 2[0-4]? | 25[0-4]) echo $(($1 - 192)) ;;
        *) echo "$1" ;;
    esac
}

# Runs a job step to its end and leaves its exit code in `code`. USR1 to this script goes on to the ranks. CONT must not
# be trapped: Slurm sends it beside USR1, and bash then loses one of them.
follow() {
    local step='' status again=1
    if ((signalled)); then
        stop_early
        return
    fi
    trap 'signalled=1 again=1; [[ -z $step ]] || kill -USR1 "$step" 2>/dev/null || true' USR1
    "$@" &
    step=$!
    if ((signalled)); then
        kill -USR1 "$step" 2>/dev/null || true
    fi
    code=127
    while ((again)); do
        again=0
        # `wait` ends early when a signal comes; 127 says that the step was waited for before.
        wait "$step" && status=0 || status=$?
        ((status == 127)) || code=$status
    done
    trap '' USR1
    code=$(unranked "$code")
}

# Ends the job, or has Slurm start it again in the same run directory. TERM is not caught: scancel sends it, and a job
# that requeued itself on it could not be cancelled.
conclude() {
    trap '' USR1
    trap - EXIT
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
        75) [[ -n $early ]] || say "stopped by a signal, or before its time limit, after a complete checkpoint" ;;
        138) say "ended by a second signal, before its checkpoint was complete" ;;
        *)
            say "crashed with exit code $code"
            # What srun and torchrun tell of SIGKILL, which the kernel sends where memory is short.
            if ((code == 137)); then
                local memory
                memory=$(job_facts "$job" | sed -n 's/.* MinMemoryNode=\([1-9][^ ]*\).*/\1 a node/p')
                say "a rank was killed: if memory was short (sacct -j $job -o State,MaxRSS,NodeList tells OUT_OF_MEMORY; the job has" \
                    "${memory:-what the partition gives}), lower train.micro_batch or data.loader_workers," \
                    "put fewer ranks on a node, or ask for more (cluster.memory, --mem)"
            fi
            if ((${anew:-0})); then
                say "not started again, as it would begin anew"
                exit "$code"
            fi
            if [[ $(progress) == "$progress_before" ]]; then
                say "not started again, as it made no checkpoint since it started"
                exit "$code"
            fi
            ;;
    esac
    if ((restarts >= max_restarts)); then
        say "given up after $max_restarts restarts; $(by_hand)"
        exit 1
    fi
    if is_idle; then
        say "not started again, as $max_idle_starts starts in a row made no checkpoint"
        exit 1
    fi
    local last slow=
    ((${anew:-0})) && last="its beginning" || last=$(last_checkpoint)
    pick_slow_nodes
    [[ -z $slow ]] || trap '' TERM
    say "to be started again from ${last:-its beginning, or the last checkpoint in $checkpoints}"
    if ! scontrol requeue "$job"; then
        say "Slurm does not requeue it; $(by_hand)"
    elif [[ -n $slow ]]; then
        exclude_slow_nodes "$slow"
    fi
    exit 75
}
